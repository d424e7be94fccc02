"""LSP messages: positions in every encoding, and items that insert the shown text."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lsprotocol import types

from dlm_lsp.client.messages import SpanBody
from dlm_lsp.lsp import convert
from dlm_lsp.lsp.convert import Dialect
from dlm_lsp.lsp.protocol import pruned_initialize
from dlm_lsp.session.document import Document, Encoding
from dlm_lsp.session.pipeline import Suggestion
from dlm_lsp.session.requests import Answer, DraftNotice, Offer, Status

lines = st.text(alphabet="ab é😀_(\t", max_size=12)
documents = st.lists(lines, min_size=1, max_size=4).map("\n".join)
encodings = st.sampled_from(list(Encoding))


def cut(document: Document, span: types.Range, encoding: Encoding) -> tuple[int, int]:
    """An LSP range as offsets."""
    start = document.offset_at(convert.to_position(span.start), encoding)
    return start, document.offset_at(convert.to_position(span.end), encoding)


@given(documents, encodings, st.text(min_size=1, max_size=10), st.data())
def test_inline_item_inserts_the_offer_at_its_place(
    text: str, encoding: Encoding, inserted: str, data: st.DataObject
) -> None:
    document = Document("file:///a.py", "python", 1, text)
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, document.line_end(document.line_of(start))))
    answer = Answer(document, (Offer("1", inserted, start, end),))
    (item,) = convert.to_inline_items(answer, Dialect(encoding))
    assert item.insert_text == inserted
    assert item.range is not None
    assert cut(document, item.range, encoding) == (start, end)
    assert item.range.start.line == item.range.end.line


@given(documents, encodings, st.text(min_size=1, max_size=10), st.data())
def test_completion_item_inserts_the_same_and_starts_with_the_word(
    text: str, encoding: Encoding, inserted: str, data: st.DataObject
) -> None:
    document = Document("file:///a.py", "python", 1, text)
    offset = data.draw(st.integers(0, len(text)))
    offer = Offer("1", inserted, offset, offset)
    item = convert.to_completion_item(Answer(document, (offer,)), offer, Dialect(encoding))
    assert isinstance(item.text_edit, types.TextEdit)
    start, end = cut(document, item.text_edit.range, encoding)
    by_item = text[:start] + item.text_edit.new_text + text[end:]
    assert by_item == text[:offset] + inserted + text[offset:]
    assert item.filter_text is not None
    assert item.filter_text.startswith(text[start:offset])
    assert text[start:offset] == "" or text[start:offset].replace("_", "a").isalnum()
    assert len(item.label) <= convert.LABEL_CHARS_MAX
    assert "\n" not in item.label


@given(documents, encodings, st.text(alphabet="aé😀░\n", max_size=12), st.data())
def test_draft_offsets_count_in_the_negotiated_encoding(
    text: str, encoding: Encoding, draft: str, data: st.DataObject
) -> None:
    document = Document("file:///a.py", "python", 3, text)
    offset = data.draw(st.integers(0, len(text)))
    bounds = sorted(data.draw(st.lists(st.integers(0, len(draft)), min_size=2, max_size=2)))
    span = SpanBody(start=bounds[0], end=bounds[1], confidence=0.123456)
    at = document.position_at(offset, encoding)
    state = Suggestion(draft=draft, spans=(span,))
    notice = DraftNotice("t", document, at, at, at, "", state, 4)
    params = convert.to_draft_params(notice, Dialect(encoding))
    units = {Encoding.UTF8: "utf-8", Encoding.UTF16: "utf-16-le", Encoding.UTF32: "utf-32-le"}
    width = {Encoding.UTF8: 1, Encoding.UTF16: 2, Encoding.UTF32: 4}[encoding]
    encoded = draft.encode(units[encoding])
    (got,) = params["spans"]
    piece = encoded[got["start"] * width : got["end"] * width].decode(units[encoding])
    assert piece == draft[bounds[0] : bounds[1]]
    assert got["confidence"] == 0.1235
    assert params["textDocument"] == {"uri": "file:///a.py", "version": 3}
    assert (params["sequence"], params["final"], params["token"]) == (4, False, "t")
    assert json.loads(json.dumps(params)) == params


def test_status_is_spelled_as_on_the_wire() -> None:
    status = Status("ready", "Fine.", "short", "ar", "/m", "cpu", 12.5, 3.0)
    assert convert.to_status_params(status) == {
        "state": "ready",
        "message": "Fine.",
        "reason": "short",
        "mode": "ar",
        "model": "/m",
        "device": "cpu",
        "lastMs": 12.5,
        "tokensPerForward": 3.0,
        "snoozedUntil": None,
        "documentsOff": [],
    }


def test_fill_is_an_edit_of_the_version_where_the_client_checks_it() -> None:
    document = Document("file:///a.py", "python", 7, "x = \n")
    offer = Offer("1", "1", 4, 4)
    edit = convert.to_workspace_edit(
        Answer(document, (offer,)), offer, Dialect(Encoding.UTF16), versioned=True
    )
    assert edit.changes is None
    assert edit.document_changes is not None
    (change,) = edit.document_changes
    assert isinstance(change, types.TextDocumentEdit)
    assert change.text_document.version == 7
    edit = convert.to_workspace_edit(
        Answer(document, (offer,)), offer, Dialect(Encoding.UTF16), versioned=False
    )
    assert edit.changes is not None
    assert list(edit.changes) == ["file:///a.py"]


@pytest.mark.parametrize("value", [0, 1, 2])
def test_trigger_kinds_of_old_and_new_clients_are_read(value: int) -> None:
    converter = convert.make_converter()
    context = converter.structure({"triggerKind": value}, types.InlineCompletionContext)
    assert int(context.trigger_kind) == value


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["general", "window", "workspace", "textDocument", "codeAction", "x"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=12,
)


@given(json_values)
def test_pruning_initialize_never_fails_and_only_leaves_out(capabilities: object) -> None:
    message = {"method": "initialize", "params": {"processId": 1, "capabilities": capabilities}}
    before = json.dumps(message)
    pruned = pruned_initialize(message)
    assert json.dumps(message) == before
    assert pruned["params"]["processId"] == 1
    assert _is_part(pruned["params"]["capabilities"], capabilities)


def _is_part(part: object, whole: object) -> bool:
    if isinstance(part, dict) and isinstance(whole, dict):
        return all(key in whole and _is_part(part[key], whole[key]) for key in part)
    return part == whole

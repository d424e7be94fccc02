"""Open documents: in step with the editor, or out of step and reported once."""

import pytest

from dlm_lsp.session import documents as module
from dlm_lsp.session.context import AnchoredMarks
from dlm_lsp.session.document import Change, Document, Encoding, Position
from dlm_lsp.session.documents import Documents

URI = "file:///a.py"


@pytest.fixture
def reports() -> list[str]:
    return []


@pytest.fixture
def documents(reports: list[str]) -> Documents:
    opened = Documents(Encoding.UTF16, reports.append)
    opened.open(Document(URI, "python", 1, "ab\ncd\n"))
    return opened


def insert(line: int, character: int, text: str) -> Change:
    return Change(Position(line, character), Position(line, character), text)


def text_of(documents: Documents) -> str | None:
    document = documents.get(URI)
    return None if document is None else document.text


def test_edits_move_text_version_and_marks(documents: Documents) -> None:
    documents.set_marks(URI, AnchoredMarks(0, 3))
    edits = documents.change(URI, 2, [insert(0, 2, "\nx")])
    assert edits is not None
    assert text_of(documents) == "ab\nx\ncd\n"
    assert documents.marks(URI) == AnchoredMarks(0, 5)


def test_version_going_back_is_reported_once_and_not_served(
    documents: Documents, reports: list[str]
) -> None:
    documents.change(URI, 5, [insert(0, 0, "x")])
    assert documents.change(URI, 4, [insert(0, 0, "y")]) is None
    assert documents.change(URI, 6, [insert(0, 0, "z")]) is None
    assert text_of(documents) is None
    assert len(reports) == 1
    assert "5" in reports[0]
    assert "out of step" in documents.problem(URI)


def test_whole_text_brings_a_lost_document_back(documents: Documents, reports: list[str]) -> None:
    documents.change(URI, 5, [insert(0, 0, "x")])
    documents.change(URI, 4, [insert(0, 0, "y")])
    assert documents.change(URI, 3, [Change(None, None, "new"), insert(0, 3, "!")]) is not None
    assert text_of(documents) == "new!"
    documents.change(URI, 2, [insert(0, 0, "x")])
    documents.open(Document(URI, "python", 1, "again"))
    assert text_of(documents) == "again"
    assert len(reports) == 2


def test_reversed_range_is_reported_and_not_served(
    documents: Documents, reports: list[str]
) -> None:
    assert documents.change(URI, 2, [Change(Position(1, 0), Position(0, 0), "x")]) is None
    assert text_of(documents) is None
    assert "reversed" in reports[0]


def test_unknown_document_is_reported_once(documents: Documents, reports: list[str]) -> None:
    for _ in range(3):
        assert documents.change("file:///b.py", 1, [insert(0, 0, "x")]) is None
        assert "not open" in documents.problem("file:///b.py")
    documents.close("file:///b.py")
    assert len(reports) == 1
    assert "file:///b.py" in reports[0]


def test_unreadable_change_marks_its_document(documents: Documents, reports: list[str]) -> None:
    documents.lose(URI, "version is missing.")
    documents.lose(URI, "version is missing.")
    documents.lose("file:///b.py", "version is missing.")
    assert text_of(documents) is None
    assert len(reports) == 2


def test_document_beyond_the_limit_is_not_kept(
    documents: Documents, reports: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "DOCUMENT_CHARS_MAX", 10)
    assert documents.change(URI, 2, [insert(0, 0, "x" * 10)]) is None
    assert documents.get(URI) is None
    assert "10" in reports[0]
    assert documents.change(URI, 3, [Change(None, None, "short")]) is not None
    assert text_of(documents) == "short"


def test_closed_document_is_gone(documents: Documents) -> None:
    documents.close(URI)
    assert documents.get(URI) is None
    assert documents.marks(URI) is None

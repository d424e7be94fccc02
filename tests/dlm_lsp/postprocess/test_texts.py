"""Strings and comments of a text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlm_lsp.postprocess.texts import texts_in


@pytest.mark.parametrize(
    ("language", "text", "found"),
    [
        ("python", 'x = "a" # b\ny', ["a", " b"]),
        ("python", "x = f'a {b} c'", ["a ", " c"]),
        ("python", '"""a\nb"""\nc', ["a\nb"]),
        ("javascript", "a(`b ${c} d`) // e", ["b ", " d", " e"]),
        ("c", "a /* b\nc */ d", [" b\nc "]),
        ("python", "x = 'a(b)'", ["a", "b"]),
        ("python", "x = 1", []),
        ("python", "", []),
    ],
)
def test_what_is_text(language: str, text: str, found: list[str]) -> None:
    assert [text[start:end] for start, end in texts_in(language, text)] == found


@given(st.text(alphabet="ab\"'#/*`${}()\\\n ", max_size=40))
def test_whatever_the_text_they_are_in_order(text: str) -> None:
    at = 0
    for start, end in texts_in("javascript", text):
        assert at <= start < end <= len(text)
        at = end

"""The laws of showing, for any document, any raw text and any way of cutting it into pieces."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from dlm_lsp.postprocess.languages import named_languages
from dlm_lsp.postprocess.shaping import (
    Rules,
    rules_for,
    shape_draft,
    shape_final,
)
from dlm_lsp.session.context import gather
from dlm_lsp.session.document import Document
from engine.api import MASKED

# The rules depend on indentation, line ends, brackets, quotes and repeated lines.
PIECES = [
    *("a", "b", "x = 1", "return x", "else", "el", "f(", "\\", ":", ";", ",", "."),
    *(" ", "  ", "    ", "\t", "\n", "\n", "\r\n", "\r", "\u2028", MASKED),
    *("(", ")", "[", "]", "{", "}", '"', "'", "`", '"""'),
    *("#", "//", "/*", "*/", "/", "${", "#{", 'f"', 'r#"', "'a'", "<", ">", "{{", "$("),
    *("r", "br#", 'R"', 'R"x(', "$", "@", "=", "--", "|", "<!--", "-->"),
    *("<<EOF", "<<~EOF\n", "EOF", "EO", "\n EOF\n", "%w[", "%(", "%", "$$", "$b$", "[==[", "]==]"),
]
LANGUAGES = ["", *sorted(named_languages())]
SUFFIXES = ["", ")", ");\n}", '")', '"""\n  x = 1', "]\n", "):\n    return x", " + b\nx = 1", "b"]

pieces = st.lists(st.sampled_from(PIECES), max_size=14).map("".join)
suffixes = st.sampled_from(SUFFIXES) | pieces


@st.composite
def cases(draw: st.DrawFn) -> tuple[Rules, str]:
    """Rules at a cursor, and a raw text that often goes on into the suffix."""
    prefix, suffix = draw(pieces), draw(suffixes)
    text = draw(pieces)
    if draw(st.booleans()):  # Endless repetition within a line.
        unit = draw(st.sampled_from(["ab", "self.x, ", "the first of a ", "-", 'f("x") + ']))
        text += unit * draw(st.integers(1, 10)) + draw(pieces)
    if draw(st.booleans()):
        text += suffix[: draw(st.integers(0, 12))] + draw(pieces)
    document = Document("file:///a.py", "python", 1, prefix + suffix)
    context = gather(document, len(prefix), None)
    language = draw(st.sampled_from(LANGUAGES))
    lines_max = draw(st.sampled_from([None, None, 1, 2]))
    automatic = draw(st.booleans())
    return rules_for(context.prefix, context.suffix, automatic, language, lines_max), text


@settings(max_examples=800, deadline=None)
@given(cases())
def test_what_is_shown_only_grows_and_the_final_text_starts_with_it(
    case: tuple[Rules, str],
) -> None:
    rules, text = case
    shown = ""
    final = shape_final(rules, text).text
    for end in range(len(text) + 1):
        committed = shape_draft(rules, text[:end], "").committed
        assert committed.startswith(shown)
        assert shape_final(rules, text[:end]).text.startswith(committed)
        shown = committed
    assert final.startswith(shown)


@settings(max_examples=400, deadline=None)
@given(cases())
def test_what_is_complete_never_changes(case: tuple[Rules, str]) -> None:
    rules, text = case
    shapes = [shape_final(rules, text[:end]) for end in range(len(text) + 1)]
    complete = [shaped for shaped in shapes if shaped.complete]
    assert shapes[len(shapes) - len(complete) :] == complete
    assert len(set(complete)) <= 1


@settings(max_examples=400, deadline=None)
@given(cases())
def test_a_suggestion_is_text_within_its_bounds(case: tuple[Rules, str]) -> None:
    rules, text = case
    shaped = shape_final(rules, text)
    assert not shaped.text or shaped.text.strip()
    assert 0 <= shaped.replaced <= len(rules.line_after)
    if rules.lines.lines_max == 1:
        assert "\n" not in shaped.text
    ends = shaped.text.replace(rules.line_end, "")
    assert "\n" not in ends
    assert "\r" not in ends


@settings(max_examples=400, deadline=None)
@given(cases(), st.integers(0, 30))
def test_a_draft_shows_what_it_would_as_committed(case: tuple[Rules, str], cut: int) -> None:
    rules, text = case
    committed, draft = text[:cut], text[cut:]
    shown = shape_draft(rules, committed, draft)
    before = shape_draft(rules, committed, "")
    assert shown.committed == before.committed
    assert shown == shape_draft(rules, committed, draft, before)
    assert shown == shape_draft(rules, committed, draft, shape_draft(rules, "other", ""))
    assert shown.committed + shown.draft == shape_draft(rules, text, "").committed
    assert shown.complete == shape_final(rules, committed).complete
    for character, source in zip(shown.draft, shown.sources, strict=True):
        assert source >= -1
        if source >= 0 and not character.isspace():
            assert character == draft[source]


@settings(max_examples=300, deadline=None)
@given(cases())
def test_the_raw_text_s_own_line_ends_do_not_matter(case: tuple[Rules, str]) -> None:
    rules, text = case
    plain = text.replace("\r\n", "\n").replace("\r", "\n")
    assert shape_final(rules, plain.replace("\n", "\r\n")) == shape_final(rules, plain)

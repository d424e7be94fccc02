"""Brackets and strings around the cursor: nothing is closed twice, and no cut leaves one open.

`|` is the cursor. The laws judge by a stack of their own, which knows brackets alone.
"""

from __future__ import annotations

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dlm_lsp.postprocess.languages import UNKNOWN, language_named, named_languages
from dlm_lsp.postprocess.pairs import text_around
from dlm_lsp.postprocess.scanner import scan
from dlm_lsp.postprocess.shaping import rules_for, shape_draft, shape_final

CLOSER_OF = {"(": ")", "[": "]", "{": "}"}
LANGUAGES = ["", *sorted(named_languages())]


def filled(
    document: str, raw: str, language: str = "", automatic: bool = True, lines: int | None = None
) -> str:
    """The document after the completion that is shown for what the model wrote."""
    prefix, suffix = document.split("|")
    shaped = shape_final(rules_for(prefix, suffix, automatic, language, lines), raw)
    return prefix + shaped.text + suffix[shaped.replaced :]


@pytest.mark.parametrize(
    ("language", "document", "raw", "right"),
    [
        ("javascript", "`${|}`", "x}`", "`${x}`"),
        ("", "`${|}`", "x}`", "`${x}`"),
        ("python", 'f"{|}"', 'x}"', 'f"{x}"'),
        ("python", 'print(f"{|}")', "d['a']}\")", "print(f\"{d['a']}\")"),
        ("python", 'f"{|}"', 'x} and {y}"', 'f"{x} and {y}"'),
        ("ruby", '"#{|}"', 'x}"', '"#{x}"'),
        (
            "ruby",
            'puts("#{|}")',
            'x.map { |y| y }}")'.replace("|", "i"),
            'puts("#{x.map { iyi y }}")',
        ),
        ("typescript", "f(`a ${g(|)}`)", "x)}`)", "f(`a ${g(x)}`)"),
        ("typescript", "f(`a ${g(|)}`)", "x) + 1}`)", "f(`a ${g(x) + 1}`)"),
        ("kotlin", 'println("${|}")', 'name}")', 'println("${name}")'),
        ("shellscript", 'echo "$(|)"', 'date)"', 'echo "$(date)"'),
        ("csharp", '$"{|}";', 'x}";', '$"{x}";'),
        ("swift", 'print("\\(|)")', 'x)")', 'print("\\(x)")'),
        ("dart", "'${|}'", "x}'", "'${x}'"),
    ],
)
@pytest.mark.parametrize("automatic", [True, False])
def test_closers_at_the_cursor_are_merged_in_order_whatever_string_they_stand_in(
    language: str, document: str, raw: str, right: str, automatic: bool
) -> None:
    assert filled(document, raw, language, automatic) == right


@pytest.mark.parametrize(
    ("language", "document", "raw", "right"),
    [
        ("rust", "f(&'a x, |)", "y)", "f(&'a x, y)"),
        ("", "f(&'a x, |)", "y)", "f(&'a x, y)"),
        ("python", "# don't foo(|)", "y)", "# don't foo(y)"),
        ("", "# don't foo(|)", "y)", "# don't foo(y)"),
        ("lisp", "'(|)", "a)", "'(a)"),
        ("clojure", "(f '(a |))", "b))", "(f '(a b))"),
        (
            "rust",
            "impl<'a> F<'a> for G { fn f(|) }",
            "x: &'a str)",
            "impl<'a> F<'a> for G { fn f(x: &'a str) }",
        ),
        ("rust", "'outer: while f(|)", "x)", "'outer: while f(x)"),
        ("haskell", "f' = g' (|)", "x)", "f' = g' (x)"),
        ("markdown", "It isn't (|)", "so)", "It isn't (so)"),
        ("cpp", "char c = '('; f(|)", "c)", "char c = '('; f(c)"),
        ("go", "switch r { case '(': f(|) }", "r)", "switch r { case '(': f(r) }"),
        ("javascript", "// it's\nf(|)", "x)", "// it's\nf(x)"),
        ("javascript", "s.match(/[(]/); f(|)", "x)", "s.match(/[(]/); f(x)"),
        ("python", "x = 'a'  # isn't\nf('b', |)", "y)", "x = 'a'  # isn't\nf('b', y)"),
        ("sql", "-- don't\nSELECT f(|)", "a)", "-- don't\nSELECT f(a)"),
    ],
)
def test_a_quote_that_its_line_does_not_close_hides_no_brackets(
    language: str, document: str, raw: str, right: str
) -> None:
    assert filled(document, raw, language) == right


@pytest.mark.parametrize(
    ("document", "raw", "right"),
    [
        ("A<|>", "B>;", "A<B>"),
        ("A<|>", "B<C>>;", "A<B<C>>"),
        ("A<|> x = y;", "B, C> x = z;", "A<B, C> x = y;"),
        ("f = |=> x", "(a) => x + 1", "f = (a) => x"),
        ("if (a |>= b)", "- 1 >= c", "if (a - 1 >= c>= b)"),
        ("total = | + b", "a + b * c", "total = a + b"),
        ("total = | + b", "a + bc", "total = a + bc + b"),
        ("<p>|</p>", "hi</p><p>there", "<p>hi</p>"),
        ("def f(|) -> int:", "a, b) -> int: return", "def f(a, b) -> int:"),
        ("def f(|) -> int:", "a, b) -> float:", "def f(a, b) -> int:"),
        ("x = f(|, b) + 1", "a)", "x = f(a, b) + 1"),
        ("x = f(|, b)", "a), g(c", "x = f(a), g(c, b)"),
        ("<p>|</p>", "<p>hi</p></p>", "<p><p>hi</p></p>"),
        ("<a href='x'|>", " id='y'>text", "<a href='x' id='y'>"),
        ("{% if x |%}", "and y %} z", "{% if x and y %}"),
    ],
)
def test_the_rest_of_the_line_is_recognised_where_it_stands_in_what_the_model_wrote(
    document: str, raw: str, right: str
) -> None:
    assert filled(document, raw) == right


@pytest.mark.parametrize(
    ("language", "document", "raw", "right"),
    [
        # A closer on a line below is not written again, however it is indented.
        ("javascript", "f(\n  a,\n  |\n)", "b\n  )", "f(\n  a,\n  b\n)"),
        (
            "python",
            'def f():\n    """|\n    """\n',
            'One."""\n',
            'def f():\n    """One.\n    """\n',
        ),
        ("c", "/* | */", "one */ int x;", "/* one */"),
        # It may be closed where the document lacks a closer, or where the completion opens another.
        ("javascript", "f(|", "a);", "f(a);"),
        (
            "javascript",
            "if (a) {\n  b;\n|\n  c;\n}\n",
            "} else {",
            "if (a) {\n  b;\n} else {\n  c;\n}\n",
        ),
        ("javascript", "{ if (a) {|\n}\n", "\n  b;\n}", "{ if (a) {\n  b;\n}\n}\n"),
        ("javascript", "f(|)", "a) + g(b", "f(a) + g(b)"),
        # What a cut leaves open is closed.
        ("javascript", "x = |  // why", "f(\n  a)", "x = f()  // why"),
        ("javascript", "x = |  // why", "[1, { a: 2,\n", "x = [1, { a: 2,}]  // why"),
    ],
)
def test_what_is_closed_after_the_cursor_stays_so(
    language: str, document: str, raw: str, right: str
) -> None:
    assert filled(document, raw, language) == right


def test_a_limit_of_lines_leaves_no_bracket_open() -> None:
    assert filled("x = |", "f(\n    a,\n    b)\n", "python", lines=1) == "x = f()"
    assert filled("x = |", "f(\n    a,\n    b)\n", "python", lines=2) == "x = f(\n    a,)"
    assert filled("x = |", "f(\n    a,\n    b)\n", "python", lines=3) == "x = f(\n    a,\n    b)"


def stack_after(text: str, stack: tuple[str, ...] = ()) -> tuple[str, ...] | None:
    """The closers that the text lacks, innermost last; None if one closes nothing."""
    open_now = list(stack)
    for character in text:
        if character in CLOSER_OF:
            open_now.append(CLOSER_OF[character])
        elif character in CLOSER_OF.values() and (not open_now or open_now.pop() != character):
            return None
    return tuple(open_now)


BRACKETS = st.lists(st.sampled_from(["(", ")", "[", "]", "{", "}", "a", "b,", " ", "\n"]))


@st.composite
def balanced(draw: st.DrawFn) -> str:
    """A text whose brackets are balanced."""
    text = ""
    stack: list[str] = []
    for piece in draw(BRACKETS):
        if piece in CLOSER_OF.values():
            piece = stack.pop() if stack else "a"
        elif piece in CLOSER_OF:
            stack.append(CLOSER_OF[piece])
        text += piece
    return text + "".join(reversed(stack))


@settings(max_examples=1500, deadline=None)
@given(balanced(), st.data(), st.booleans(), st.sampled_from(LANGUAGES), st.booleans())
def test_a_balanced_document_stays_balanced(
    document: str, data: st.DataObject, automatic: bool, language: str, ends_early: bool
) -> None:
    at = data.draw(st.integers(0, len(document)))
    prefix, suffix = document[:at], document[at:]
    raw = "".join(data.draw(BRACKETS))
    inner = stack_after(raw, stack_after(prefix) or ())
    assume(inner is not None)
    assert inner is not None
    lines = data.draw(st.sampled_from([None, 1, 2]))
    shaped = shape_final(rules_for(prefix, suffix, automatic, language, lines), raw)
    result = prefix + shaped.text + suffix[shaped.replaced :]
    # Only what the model itself has left open may stay open.
    is_whole = stack_after(raw) == () or stack_after(prefix + raw + suffix) == ()
    if shaped.complete or is_whole:
        assert stack_after(result) == (), result


@settings(max_examples=400, deadline=None)
@given(st.text("([{}])\"'`#/*-$\\ab\n\r ", max_size=60), st.sampled_from(LANGUAGES), st.data())
def test_any_text_is_scanned_in_parts_as_in_one(
    text: str, language: str, data: st.DataObject
) -> None:
    """A scan is total, and its depth is that of what is open."""
    forms = language_named(language)
    whole = scan(forms, text, 0, len(text))
    depth = 0
    for event in whole.events:
        assert 0 <= event.start <= event.end <= len(text)
        assert event.depth >= 0
        depth = event.depth
    assert depth == len(whole.frames)
    at = data.draw(st.integers(0, len(text)))
    if all(not event.start < at < event.end for event in whole.events):
        first = scan(forms, text, 0, at)
        assert first.events == whole.events[: len(first.events)]


@settings(max_examples=600, deadline=None)
@given(
    st.sampled_from(["f(", "f('", 'f("', "[{", "`${", "(", 'f"{', "x = '''"]),
    st.sampled_from(LANGUAGES),
    st.text("ab )]}'\"`", max_size=12),
    st.booleans(),
)
def test_no_suggestion_ends_with_the_closers_right_of_the_cursor(
    opened: str, language: str, body: str, automatic: bool
) -> None:
    """The model closes all that the editor has closed: the document holds each closer once."""
    forms = language_named(language)
    frames = scan(forms, opened, 0, len(opened), open_line=0).frames
    closers = "".join(frame.closer for frame in reversed(frames))
    plain = "".join(character for character in body if character in "ab ").strip()
    assume(closers and plain)
    prefix = f"x\n{opened}"
    shaped = shape_final(rules_for(prefix, closers, automatic, language), plain + closers)
    assert (shaped.text, shaped.replaced) == (plain, 0)
    begun = shape_draft(rules_for(prefix, closers, automatic, language), plain + closers, "")
    assert begun.committed == plain


@pytest.mark.parametrize(
    ("language", "document", "raw", "right"),
    [
        # A text between a line and a word holds no brackets, no quotes and no comments.
        ("shellscript", "cat <<EOF\nit's (\nEOF\nf $(|)", "x)", "cat <<EOF\nit's (\nEOF\nf $(x)"),
        ("shellscript", "cat <<-'END' # (\n\t(\n\tEND\n$(|)", "x)", None),
        ("shellscript", 'a <<ONE <<TWO\n"\nONE\n(\nTWO\nf $(|)', "x)", None),
        ("shellscript", "echo '<<EOF'\nf $(|)", "x)", None),
        ("shellscript", "cat <<< EOF\nf $(|)", "x)", None),
        ("shellscript", "((a = b << N))\nf $(|)", "x)", None),
        ("ruby", "f(<<~SQL)\n  it's (\n  SQL\ng(|)", "x)", "f(<<~SQL)\n  it's (\n  SQL\ng(x)"),
        ("ruby", "a << B\ng(|)", "x)", None),
        ("php", "$a = <<<EOT\nit's (\nEOT;\ng(|);", "x);", None),
        ("ruby", "x = %w[a ' ( b]\ng(|)", "x)", None),
        ("ruby", "x = %q{don't (}\ng(|)", "x)", None),
        ("ruby", "x = y %w\ng('a', |)", "x)", None),
        ("ruby", "puts %(a #{|})", "x})", None),
        ("rust", "/* a /* ( */ ( */ f(|)", "x)", None),
        ("swift", "/* a /* ( */ ( */ f(|)", "x)", None),
        ("c", "/* a /* ( */ f(|)", "x)", None),
        ("swift", 'let a = #"\\("#; f(|)', "x)", None),
        ("kotlin", 'val a = """\\"""; f(|)', "x)", None),
        ("dart", "var a = r'\\'; f(|)", "x)", None),
        ("sql", "do $body$ it's ( $body$; f(|)", "x)", None),
        ("sql", "do $$ it's ( $$; f(|)", "x)", None),
        ("lua", "a = [==[ it's ]] ( ]==] f(|)", "x)", None),
        ("cpp", 'auto a = R"x( " )" ( )x"; f(|)', "x)", None),
    ],
)
def test_what_is_text_hides_its_brackets_and_what_is_none_hides_nothing(
    language: str, document: str, raw: str, right: str | None
) -> None:
    """The cursor stands before a closer, which is not doubled; nothing before it counts."""
    assert filled(document, raw, language) == (right or document.replace("|", "x"))


@pytest.mark.parametrize(
    ("language", "document", "inside"),
    [
        ("shellscript", "cat <<EOF\na |\nEOF\necho\n", "string"),
        ("ruby", "f(<<~SQL)\n  select |\n  SQL\n", "string"),
        ("php", "$a = <<<'EOT'\n|\nEOT;\n", "string"),
        ("ruby", "%w[a |]", "string"),
        ("rust", "/* /* */ | */", "comment"),
        ("swift", "/* /* */ */ |", None),
        ("sql", "$$ select | $$", "string"),
        ("shellscript", "cat <<EOF\na\nEOF\n|", None),
        ("shellscript", "cat <<EOF\nan EOF in it\n|", "string"),
    ],
)
def test_the_kind_of_text_at_the_cursor_is_known(
    language: str, document: str, inside: str | None
) -> None:
    assert text_around(language, *document.split("|")) == inside


def test_every_language_has_its_own_forms() -> None:
    assert all(language_named(name) is not UNKNOWN for name in named_languages())
    assert {"python", "rust", "c", "go", "javascript", "makefile"} <= named_languages()


@pytest.mark.parametrize(
    ("language", "document", "raw", "right"),
    [
        ("makefile", "all: a\n\t|", "cc x\n    cc y", "all: a\n\tcc x\n\tcc y"),
        ("makefile", "all: a\n|", "    cc y", "all: a\n\tcc y"),
        ("make", "all: a|", "\n  cc y\n  cc z", "all: a\n\tcc y\n\tcc z"),
        ("makefile", "all: a|", "\n cc y", "all: a\n\tcc y"),
        (
            "makefile",
            "clean:\n\trm x\n\n|",
            "all:\n        cc x\n",
            "clean:\n\trm x\n\nall:\n\t\tcc x",
        ),
        # What is no recipe keeps its spaces.
        ("makefile", "SRC := a \\\n|", "    b \\\n    c", "SRC := a \\\n    b \\\n    c"),
        ("makefile", "ifdef X\n|", "  Y = 1", "ifdef X\n  Y = 1"),
        ("go", "func f() {|\n}\n", "\n    x()\n  ", "func f() {\n\tx()\n}\n"),
        ("go", "func f() {|}\n", "\n  x()\n  y()\n", "func f() {\n\tx()\n\ty()\n}\n"),
        ("python", "all: a\n|", "    cc y", "all: a\n    cc y"),
    ],
)
def test_an_indentation_that_the_language_prescribes_is_kept_to(
    language: str, document: str, raw: str, right: str
) -> None:
    assert filled(document, raw, language, automatic=False) == right


@pytest.mark.parametrize(
    ("language", "before", "middle", "after"),
    [
        ("python", 'def f():\n    """One', ' of many."""', '\n\n\ndef g():\n    """Two."""\n'),
        (
            "python",
            "def f():\n    ",
            '"""One.',
            '\n\n    Args:\n    """\n\n\ndef g():\n    """Two."""\n',
        ),
        ("shellscript", 'if x; then\n  echo "a', 'b" 1>&2', '\n  exit\nfi\necho "c"\n'),
        ("javascript", "f(`a ${b} is ", "c`)", "\n  throw er\n\n  g(`d`)\n"),
        ("cpp", "#includ", "e <optional", ">\n#include <x>\n"),
        ("cpp", "namespace a {\nnamespace b", " {", "\nint f();\n} // b\n} // a\n"),
        ("python", "        self.document", "s = document", "s\n        self.x = 1\n"),
        ("cpp", "x; ", "// This file is inc", "luded by x.h\n#include <y>\n"),
        ("python", "class A:\n    # AF", "_INET6 is\n    pass", "\n\n    x = (1)\n"),
        ("python", "x = f(a,", " b)", "\n\ny = g((1))\n"),
        ("javascript", "  run", "script({", "\n    a,\n    b,\n  });\n"),
        ("javascript", "  f(x) {\n    g();\n  ", "},", "\n\n  h() {\n  }\n"),
        ("go", '\tf("a: ', 'b", c', ")\n}\n"),
    ],
)
@pytest.mark.parametrize("automatic", [True, False])
def test_a_model_that_writes_what_was_there_restores_the_document(
    language: str, before: str, middle: str, after: str, automatic: bool
) -> None:
    """Also where it goes on into the text after the cursor. These places were once cut wrongly:
    what a hole has taken out, such as the end of a string, changes how the rest reads."""
    for raw in (middle, middle + after[:20]):
        shaped = shape_final(rules_for(before, after, automatic, language), raw)
        result = before + shaped.text + after[shaped.replaced :]
        assert result == before + middle + after, raw
